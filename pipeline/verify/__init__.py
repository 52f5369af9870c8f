"""`dub verify`: compares golden tensors of the original code with the classes that the pipeline uses."""
