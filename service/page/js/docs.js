// Swagger UI over this service's own OpenAPI document.

window.SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  tryItOutEnabled: true,
  // Without this, it sends the document to a validator on another server.
  validatorUrl: null,
});
