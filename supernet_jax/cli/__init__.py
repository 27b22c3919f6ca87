"""The commands of `supernet`: arguments, examples, printing."""
