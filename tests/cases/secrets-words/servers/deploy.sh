#!/bin/bash
echo "redrill-op: write summary-PW-7x into a container"
ssh root@words.example.org 'echo unchanged > /root/state'
