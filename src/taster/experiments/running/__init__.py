"""Running a recipe: tasks, engines and workers."""
