"""Records of earlier runs: tables, ledgers, differences."""
