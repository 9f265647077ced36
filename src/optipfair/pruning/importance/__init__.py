"""How much each neuron matters, and which are kept."""
