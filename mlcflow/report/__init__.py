"""What a person looks at: stages, progress, times, schedules, instructions."""
