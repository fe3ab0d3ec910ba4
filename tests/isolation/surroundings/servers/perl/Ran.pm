package Ran; open(my $f, ">", "@ran@/perl-opt"); 1;
