"""What commands compute before anything is shown: one module a command, under the command's name."""
