"""CodeContests: problems of programming contests with right and wrong programs."""
