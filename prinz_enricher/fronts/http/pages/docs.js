// Swagger UI, which is to ask no service elsewhere whether the document is valid.
SwaggerUIBundle({ url: "openapi.json", dom_id: "#swagger", validatorUrl: null });
