"""Text-driven face editing with StyleCLIP as pure functions over tensors.

Images are float tensors [N, 3, R, R] in [-1, 1], RGB; device and dtype follow the inputs.
Nothing here reads the environment, prints, or chooses a device.
"""
