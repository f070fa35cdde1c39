"""The Job's side: runs br, dumpling and tidb-lightning, deletes backup data, and reports on its own Job."""
