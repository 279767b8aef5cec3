"""Systems: the LightningModules that the Trainer drives. A name is a file here too."""
