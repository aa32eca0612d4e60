"""What steering does: gold reward, divergence, speed."""
