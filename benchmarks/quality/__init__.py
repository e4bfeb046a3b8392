"""How good maps are: ablation, GAE, localisation."""
