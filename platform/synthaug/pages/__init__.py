"""What people read: what a run would do, tables, reports, exports."""
