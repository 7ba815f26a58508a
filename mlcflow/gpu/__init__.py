"""Code for GPUs: from bound loops to kernels, PTX, and the calls of the driver that run them."""
