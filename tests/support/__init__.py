"""What tests of several rooms share: stand-ins, clients, a served process."""
