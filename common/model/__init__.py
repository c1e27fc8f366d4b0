"""The networks, the acting policy and the RND bonus."""
