"""Speed of fastgru beside its peers: see README.md. Nothing here is installed with the package."""
