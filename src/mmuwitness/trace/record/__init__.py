"""Recording a trace on a live host."""
