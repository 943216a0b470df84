"""Where the parts of a model run: on cards, on the processor, on both."""
