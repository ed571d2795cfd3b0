"""From the shape of Δ, the engines' top-k logprobs and their settings to ranked causes. Pure."""
