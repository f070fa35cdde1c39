"""The contract between the webhook and the manager: names, reports, paths, and the formats of the strings in them."""
