"""`rgtg-hf playground`: shows guided and unguided text side by side in the browser."""
