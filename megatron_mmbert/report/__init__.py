"""What a person sees at the end of a run: pictures, tables, and sentences about what was learned."""
