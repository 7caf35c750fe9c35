"""What a run writes: how it is laid out, who may write it, how it becomes visible, and how it is read again."""
