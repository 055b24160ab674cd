"""The linear probe: features of a VIM, and the heads that read them."""
