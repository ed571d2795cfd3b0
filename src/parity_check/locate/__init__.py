"""Where two engines first differ inside the model, beyond rounding."""
