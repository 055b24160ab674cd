"""The decoder for TF.js, and the page that shows it."""
