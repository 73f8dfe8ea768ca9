"""Run the commands of a profile: training, embeddings, evaluations, and the report."""
