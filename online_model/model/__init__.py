"""The ranking model: what goes in, the pieces it is made of, its loss, and what its logits are worth. It owns no ID vectors and reads no clock."""
