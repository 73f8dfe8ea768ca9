"""One evaluation a file: embeddings in, measurements out."""
