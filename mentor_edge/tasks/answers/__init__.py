"""Final answers: finding one in a text and comparing it with the accepted ones."""
