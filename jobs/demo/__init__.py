"""`make demo`: the main job on real photographs, one approved recovery, and a page that shows what happened."""
