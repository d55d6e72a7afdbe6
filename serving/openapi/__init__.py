"""GET /openapi.json: every path, method, parameter, body, answer and error, as OpenAPI 3.1.

operations  what each path is for, takes and answers: the table
document    table + routes + the pydantic records of the answers -> the document
routes      the path that serves it
"""
