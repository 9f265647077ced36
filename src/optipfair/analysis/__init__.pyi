from .analyze import Analysis as Analysis, analyze_model as analyze_model
from .analyze import SAVINGS_PERCENTAGES as SAVINGS_PERCENTAGES, Saving as Saving
