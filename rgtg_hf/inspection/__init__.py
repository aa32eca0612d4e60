"""The rewards of a response, token by token, and a page that shows them."""
