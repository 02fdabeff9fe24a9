"""diffmech: what each attention head of a diffusion model does, at which timestep, and whether it matters."""
