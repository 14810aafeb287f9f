"""The description of the API: an OpenAPI 3.1 document, from the types of requests and answers."""
