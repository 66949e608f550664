"""What runs models: processes of their own, and calls made in the thread that receives the answers."""
