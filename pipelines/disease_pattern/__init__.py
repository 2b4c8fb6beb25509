"""Disease pattern of a heart, from shape and motion at end diastole and end systole."""
