"""Pages of methods that show more than their task's page does; a file is named after its method."""
