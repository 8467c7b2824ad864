"""One run, begun or continued, shown while it lasts, summed up; and the loop with several candidates in flight."""
