"""From a prompt to what the reward did with it, token by token, and to a page that shows it."""
