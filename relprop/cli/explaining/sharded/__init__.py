"""``relprop explain`` over very many pictures: maps in shards, and one index of all."""
