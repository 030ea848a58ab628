"""What the Hyena mixer is made of: the implicit filters and the long convolution with its record of past inputs."""
