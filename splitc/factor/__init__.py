"""Low rank: decompose weights, find out what each rank saves and loses, choose ranks."""
