"""The embedded demonstration: photographs, portraits, and what is shown of them."""
