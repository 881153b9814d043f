"""The service over HTTP: routes, bodies, errors, access, and the document that describes them."""
