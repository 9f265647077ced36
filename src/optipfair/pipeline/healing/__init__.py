"""From a pruned model's folder to one that holds it trained again."""
