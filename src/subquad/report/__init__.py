"""Pages, figures and tables for people: matplotlib, Jinja2 and rich do the drawing. Importing it loads none of them."""
