"""Reference weights in and out; installed as `hf_vit_suite.conversion`. The layouts are still to come."""
