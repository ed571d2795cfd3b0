"""Did my rollout engine change the numbers that my RL trainer learns from?"""

__version__ = "0.1.0"
